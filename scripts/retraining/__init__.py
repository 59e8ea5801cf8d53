"""From fresh labels to a better gate that serves: snapshot, training, trial against what serves, promotion."""
