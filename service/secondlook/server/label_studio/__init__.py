"""A machine learning backend of Label Studio, as ``secondlook label-studio`` serves it.

``endpoint`` speaks HTTP, ``backend`` answers by the calls of a service, and ``task_images`` gets
the images of tasks.
"""
