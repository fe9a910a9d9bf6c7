"""face-api.js's age and gender network."""
