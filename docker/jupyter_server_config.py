"""JupyterLab in the image: a bare `jupyter lab` serves port 8888 as root, with its token.

A forgotten server ends itself: burst stops a machine 15 minutes after the command has ended, and
a server never ends by itself. Here it does after LAB_IDLE_MINUTES (60; 0: never) without work:
kernels and terminals that are idle so long are shut down, open tabs notwithstanding; a cell that
runs is work. Jupyter checks once a minute, so add up to two.
"""
import os

from jupyter_server.base.handlers import APIHandler

c = get_config()  # noqa: F821
c.ServerApp.ip = '0.0.0.0'
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False

seconds = round(60*float(os.environ.get('LAB_IDLE_MINUTES', 60)))
interval = min(60, max(1, seconds))
c.ServerApp.shutdown_no_activity_timeout = seconds
c.MappingKernelManager.cull_idle_timeout = seconds
c.MappingKernelManager.cull_interval = interval
c.MappingKernelManager.cull_connected = True
c.TerminalManager.cull_inactive_timeout = seconds
c.TerminalManager.cull_interval = interval

# as long as its tab can be seen, JupyterLab asks for lists and saves its layout every ten seconds,
# which Jupyter would take for activity
count = APIHandler.update_api_activity


def count_work(self):
    "Count a request as activity, unless a tab makes it by itself."
    by_itself = self.request.method in ('GET', 'HEAD') or '/lab/api/' in self.request.path
    if not by_itself: count(self)


APIHandler.update_api_activity = count_work
