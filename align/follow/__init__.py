"""What runs do, and what became of them: `tree` prints them (`align runs`), `server` shows them live (`align watch`)."""
