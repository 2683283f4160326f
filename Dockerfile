# The image for burst and plain Docker. The project itself is not in it: burst mounts it at /home/burst/work.
FROM python:3.11-slim

# the torch that requirements.txt names brings CUDA with it
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir -r /tmp/requirements.txt && rm /tmp/requirements.txt

# a bare `jupyter lab` serves the container's port, as root, with its token;
# a bare `papermill` shows each line of the training as it comes
RUN mkdir -p /usr/local/etc/jupyter /usr/local/etc/ipython \
 && printf '%s\n' 'c.ServerApp.ip = "0.0.0.0"' 'c.ServerApp.allow_root = True' 'c.ServerApp.open_browser = False' > /usr/local/etc/jupyter/jupyter_server_config.py \
 && printf '%s\n' 'c.IPKernelApp.quiet = False' > /usr/local/etc/ipython/ipython_kernel_config.py

WORKDIR /home/burst/work
ENV PYTHONPATH=/home/burst/work \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

EXPOSE 8888
CMD ["jupyter", "lab"]
