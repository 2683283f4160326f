# The image for burst and plain Docker. The project is not in it: burst mounts it at /home/burst/work.
# torch's wheels bring NVIDIA's CUDA libraries, under NVIDIA's licence (docs/burst.md): build the image, do not pass it on.
FROM python:3.11-slim

ENV PIP_ROOT_USER_ACTION=ignore
# process 1 has no default signal handlers: without tini `docker stop` would wait in vain, and then kill
# Triton, behind compile=True, needs a C compiler and libc's headers
RUN apt-get update && apt-get install -y --no-install-recommends tini gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# for an older driver, such as 525: --build-arg TORCH="torch==2.9.1 torchvision==0.24.1"; any words for pip. Empty: the torch of requirements.txt
ARG TORCH=""
COPY requirements.txt /tmp/
# hadolint ignore=DL3013
RUN if [ -n "$TORCH" ]; then pip install --no-cache-dir $TORCH && sed -i -E '/^torch(vision)?==/d' /tmp/requirements.txt; fi \
 && pip install --no-cache-dir -r /tmp/requirements.txt && rm /tmp/requirements.txt

COPY docker/jupyter_server_config.py /etc/jupyter/
COPY docker/ipython_kernel_config.py /etc/ipython/

WORKDIR /home/burst/work
# on a CPU the allocator keeps what is freed (core.keep_freed_memory does the same for the library's own runs)
ENV PYTHONPATH=/home/burst/work PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

EXPOSE 8888
# papermill does not make the folder that it writes to
ENTRYPOINT ["tini", "-g", "--", "sh", "-c", "mkdir -p output 2>/dev/null; exec \"$@\"", "sh"]
CMD ["jupyter", "lab"]
