"""Population based training of kickstarted students, on Ray Tune."""
