"""Publishing a model folder on the Hub: what is sent, the checks before, and one commit (`llave push`)."""
