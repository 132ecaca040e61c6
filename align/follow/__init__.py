"""What runs do, and what became of them: `tree` is `align runs`, `server` is `align watch`."""
