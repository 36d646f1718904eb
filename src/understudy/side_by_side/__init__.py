"""Several behaviours of one Unity scene at once, each with a student, a teacher and a run folder of its own."""
