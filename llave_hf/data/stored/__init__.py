"""Pictures that lie inside files of rows: where each stands, and its bytes."""
