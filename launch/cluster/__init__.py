"""Jobs on a SLURM cluster: the request, its checks and script, and what a job does when its time is up."""
