"""The report's pictures: picture.py is what each is, all_pictures.py draws them all, the others draw one kind each."""
