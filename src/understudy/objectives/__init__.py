"""What a student learns from: distances to teachers, schedules of weights, and the objective that sums them."""
