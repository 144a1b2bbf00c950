"""Training: data, configurations, runs that resume, reports."""
