"""Long runs over folders of pictures: find them, label them, keep what is done."""
