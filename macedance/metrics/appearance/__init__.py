"""VBench's six dimensions of custom videos, each as a metric of single videos."""
