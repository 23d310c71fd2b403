"""What keeps a store healthy for years: what is still needed, what can go, what is broken, what it costs, and how a run moves house."""
