"""Results to tables, plots and prose."""
