"""JupyterLab in the image: a bare `jupyter lab` serves port 8888 as root, with its token, and ends itself when it was forgotten.

burst stops a machine 15 minutes after the command has ended, and a server never ends by itself. Here it does after LAB_IDLE_MINUTES (60; 0: never) without work: kernels and terminals
that are idle so long are shut down, open tabs notwithstanding; a cell that runs is work. Jupyter looks once a minute, so add up to two.
"""
import os

from jupyter_server.base.handlers import APIHandler

c = get_config()  # noqa: F821
c.ServerApp.ip = '0.0.0.0'
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False

seconds = round(60*float(os.environ.get('LAB_IDLE_MINUTES', 60)))
c.ServerApp.shutdown_no_activity_timeout = seconds
c.MappingKernelManager.cull_idle_timeout = c.TerminalManager.cull_inactive_timeout = seconds
c.MappingKernelManager.cull_connected = True
c.MappingKernelManager.cull_interval = c.TerminalManager.cull_interval = min(60, max(1, seconds))

# as long as its tab can be seen, JupyterLab asks for lists and saves its layout every ten seconds, which Jupyter would take for activity
count = APIHandler.update_api_activity
APIHandler.update_api_activity = lambda self: None if self.request.method in ('GET', 'HEAD') or '/lab/api/' in self.request.path else count(self)
