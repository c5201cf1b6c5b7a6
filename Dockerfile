# An image with the interface of TensorFlow Serving's: ports, environment, entrypoint, paths.
#
#   docker build -t inserve .                                    CPU
#   docker build -t inserve:gpu --build-arg INSERVE_EXTRA=gpu .  CUDA libraries come with TensorFlow's packages
#
#   docker run -p 8500:8500 -p 8501:8501 -v /srv/models/prices:/models/prices -e MODEL_NAME=prices inserve

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim
ARG INSERVE_EXTRA=cpu
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/inserve-*.whl)[${INSERVE_EXTRA},remote]" \
    && rm -r /wheels \
    && ln -s "$(command -v tensorflow_model_server)" /usr/bin/tensorflow_model_server
COPY docker/tf_serving_entrypoint.sh /usr/bin/tf_serving_entrypoint.sh

ENV MODEL_BASE_PATH=/models MODEL_NAME=model
RUN mkdir -p ${MODEL_BASE_PATH}

# gRPC, REST
EXPOSE 8500 8501

ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
