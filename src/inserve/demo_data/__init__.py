"""The model that ``inserve demo`` serves, and images it has never seen."""
