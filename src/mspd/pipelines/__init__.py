"""mspd inside other people's pipelines; one file each, which imports its library (docs/pipelines.md).

images.py     a torchvision v2 transform
dataset.py    a function for `datasets.map`
art.py        a preprocessor of the Adversarial Robustness Toolbox
defended.py   a model behind the defence, for foolbox and whoever attacks a module
comfyui.py    a node of ComfyUI
frames.py     raw video frames from a stream to a stream, for ffmpeg
"""
