"""The Python API: ``secondlook.label`` and ``secondlook.segment`` for scripts and notebooks.

``labeler`` has the two ways in, ``given_images`` what may be labelled, ``written_classes`` how
classes may be written, and ``label_results`` what comes back. ``segmented_image`` outlines one
object of one image.
"""
