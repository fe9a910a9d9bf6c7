"""The demo of `make demo`: drawn faces, a contact sheet and a table of their estimates."""
