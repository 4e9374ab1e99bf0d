"""The parts of a synthetic flower picture; `data.synthetic` puts them together.

colours.py     colours and chance
kinds.py       how each kind of flower grows; blossom.py: painted in any pose
greenery.py    stems, leaves and grass; background.py: what is behind the flowers
camera.py      light, exposure, blur and noise
"""
