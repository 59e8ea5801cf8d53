"""Do the labels hold? Models of growing size, or of growing training data, judged on the same labels."""
