"""What people read of a run: reports, model cards, live views; all of it from the run's folder."""
