"""What users see of a run: hits, plans and the summary, as text or as JSON lines."""
