"""Training rows in Arrow: their columns, checks, labels and contents, before any picture is opened."""
