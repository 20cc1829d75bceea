"""Where training rows come from: Hub data sets, folders and files, as `train_data` names them."""
