"""PPO against DPO and best-of-n, from one SFT model: train the arms, measure them alike, say what can be said."""
