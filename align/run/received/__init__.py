"""What is here may come from others: files read and written without following links, text shown without controls, a
checkpoint's own code refused. SECURITY.md says what is trusted."""
