"""Reports for people: one HTML file with its pictures inside, which can be mailed and opened anywhere."""
