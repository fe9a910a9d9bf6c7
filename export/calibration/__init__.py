"""From labeled faces to fusion tables, and how good they are."""
