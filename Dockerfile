# CPU image, built from the wheel in dist/: make docker
FROM python:3.11-slim

# The CPU build of torch: PyPI's build for Linux brings CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

COPY constraints.txt /tmp/build/
RUN pip install --no-cache-dir --constraint /tmp/build/constraints.txt \
    --extra-index-url "$TORCH_INDEX" "$(grep ^torch== /tmp/build/constraints.txt)+cpu"

COPY dist/*.whl /tmp/build/
RUN wheel=$(ls /tmp/build/*.whl) && pip install --no-cache-dir \
    --constraint /tmp/build/constraints.txt "corellarec[postgres,serve] @ file://$wheel"

# Runs go into /work, fetched data sets and models into the user's home: mount volumes to keep them.
RUN useradd --create-home corellarec && install --directory --owner=corellarec /work
USER corellarec
WORKDIR /work

ENTRYPOINT ["corellarec"]
CMD ["--help"]
