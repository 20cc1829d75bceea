"""What people read of an evaluation: Markdown tables, a plot, an HTML page with misses, a leaderboard's file."""
