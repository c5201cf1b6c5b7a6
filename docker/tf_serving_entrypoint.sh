#!/bin/sh
# Serves the model of the environment. Arguments of the container come last, so they win.
# exec: the server has to be process 1, or signals would end the container without letting requests finish.
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \
    --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" \
    "$@"
