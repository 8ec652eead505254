"""Weight scores: functions (space, theta, batch, ...) -> (P,), high = keep; a file each."""
