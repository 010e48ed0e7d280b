"""Long trials of what must never fail, each a part with `main()` that prints its figures and returns them."""
