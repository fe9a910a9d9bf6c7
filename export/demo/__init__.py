"""Demo experts: drawn faces of known age, and networks whose readouts are fitted on them."""
