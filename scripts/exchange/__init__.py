"""Labels and questions on their way out and back in: snapshots, dataset folders, files of other labelling tools."""
