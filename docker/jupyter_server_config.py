"""JupyterLab in the image: a bare `jupyter lab` serves port 8888 as root, with its token.

A forgotten server ends itself: burst stops a machine 15 minutes after the command has ended, and
a server never ends by itself. Here it does after LAB_IDLE_MINUTES (60; 0: never) without work, open
tabs notwithstanding. Work is what a person does, a cell that runs, a program in a terminal, however
silent, and whatever else was started from there and computes. It is looked for once a minute.
"""
import os
from datetime import UTC, datetime

import psutil
from jupyter_server.base.handlers import APIHandler
from jupyter_server.serverapp import ServerApp
from tornado.ioloop import PeriodicCallback

c = get_config()  # noqa: F821
c.ServerApp.ip = '0.0.0.0'
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.shutdown_no_activity_timeout = round(60*float(os.environ.get('LAB_IDLE_MINUTES', 60)))

# in the environment of terminals and kernels, and so of all that was started in them
MARK, HERE = 'LAB_SERVER', f'{os.getpid()}'
os.environ[MARK] = HERE


def works(process: psutil.Process) -> bool:
    """Whether a process was started from here, and works.

    A program in a terminal does by being there; the shell, which leads its session, does not.
    Others, such as what a kernel has started or what has left its terminal, do if they compute:
    some helpers of a kernel live as long as it does.
    """
    try:
        env, session = process.environ(), os.getsid(process.pid)
        if env.get(MARK) != HERE: return False
        computes = process.cpu_percent() > 10   # percent of a core since the last look
        in_terminal = session not in (process.pid, os.getsid(0)) and 'JPY_PARENT_PID' not in env
        waits = process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        return computes or in_terminal and not waits
    except (psutil.Error, OSError): return False   # it has ended, or is another user's


def look(server: ServerApp):
    "Note work, and end the server after too long without."
    busy = [kernel['execution_state'] == 'busy' for kernel in server.kernel_manager.list_kernels()]
    if any(busy + [works(process) for process in psutil.process_iter()]):
        server.web_app.settings['work_last_activity'] = datetime.now(UTC)
    idle = (datetime.now(UTC) - server.web_app.last_activity()).total_seconds()
    if idle > server.shutdown_no_activity_timeout:
        server.log.warning(f'No work for {idle:.0f} seconds: the server ends.')
        server.stop()


def begin_looking(server: ServerApp):
    "In place of Jupyter's own rule, for which a terminal works if it prints."
    seconds = server.shutdown_no_activity_timeout
    if seconds > 0: PeriodicCallback(lambda: look(server), 1000*min(60, max(1, seconds/5))).start()


ServerApp.init_shutdown_no_activity = begin_looking

# as long as its tab can be seen, JupyterLab asks for lists and saves its layout every ten seconds,
# which Jupyter would take for activity
count = APIHandler.update_api_activity


def count_work(self):
    "Count a request as activity, unless a tab makes it by itself."
    by_itself = self.request.method in ('GET', 'HEAD') or '/lab/api/' in self.request.path
    if not by_itself: count(self)


APIHandler.update_api_activity = count_work
