"""The parts of a drawn picture, from colours and blossoms to light and camera; `data.synthetic` puts them together."""
