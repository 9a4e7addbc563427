"""Open X-Embodiment: what each dataset's numbers mean, and how they become the standard form when training reads them."""
