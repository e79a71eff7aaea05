"""What runs at times: schedules of sites, timers of backups and renewals."""
