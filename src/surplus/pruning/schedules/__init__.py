"""When weights are cut, and from what: functions (task, *, density, ...) -> levels; a file each."""
