"""What a probe records at a hit, and whether it does: fetchargs and filters, compiled."""
