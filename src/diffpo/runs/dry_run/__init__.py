"""What a run would take, told from its recipe alone."""
