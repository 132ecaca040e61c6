"""PPO: for now TRL 1.12's trainer through the thinnest subclass that makes it correct here."""
