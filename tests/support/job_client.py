"""Jobs as a client sees them: images to send, and the wait for the end."""

from serving import png

from secondlook_client import Client


def numbered(count: int, start: int = 0):
    """Images that differ, by number."""
    return ((number, png(shade=number)) for number in range(start, start + count))


def send(client: Client, job: str, count: int, start: int = 0):
    """Upload that many images by their numbers; what became of each."""
    return dict(client.jobs.upload(job, numbered(count, start), number=lambda number: number))


def wait(client: Client, job: str):
    """The job once it is over."""
    for news in client.jobs.watch(job):
        last = news.job
    return last
