"""Label images with words: Grounding DINO proposes boxes, a local vision-language model takes a
second look at each one, and only what survives becomes a label."""
