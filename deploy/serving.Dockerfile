# The prediction API alone: medcode without Dagster, DuckDB and MLflow.
#
#   docker build -f deploy/serving.Dockerfile -t medcode-serving:0.1.0 .
#   docker build -f deploy/serving.Dockerfile --build-arg TORCH=cuda -t medcode-serving:0.1.0-cuda .
#   docker build -f deploy/serving.Dockerfile --build-arg EXTRAS=llamacpp -t medcode-serving:0.1.0-llamacpp .
#
# Packages come from pip's own index; name another with --build-arg PIP_INDEX_URL=… or PIP_EXTRA_INDEX_URL=… . PyPI
# itself has torch for CUDA only: for TORCH=cpu add the index of CPU builds that torch's documentation names.
FROM python:3.11-slim AS build
ARG TORCH=cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# Without pip in it: nothing can be installed into the image that runs.
RUN python -m venv --without-pip /opt/medcode

# Dependencies first: a change of the code leaves these layers as they are. `===` passes over a build marked +cpu.
COPY pyproject.toml constraints.txt ./
RUN torch="$(grep '^torch==' constraints.txt)" \
    && if [ "$TORCH" = cuda ]; then torch="torch===${torch#torch==}"; fi \
    && pip --python /opt/medcode/bin/python install "$torch" -c constraints.txt \
    && /opt/medcode/bin/python -c "import sys, torch; built = 'cuda' if torch.version.cuda else 'cpu'; \
sys.exit(0 if built == '$TORCH' else f'TORCH=$TORCH was asked for, but the index has torch for {built}: name another')"
ARG EXTRAS=
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [project['optional-dependencies'][name] for name in '$EXTRAS'.split()]; \
print(*sum(extras, project['dependencies']), sep='\n')" > requirements.txt \
    && pip --python /opt/medcode/bin/python install -r requirements.txt -c constraints.txt

COPY README.md LICENSE ./
COPY medcode_assets medcode_assets
COPY medcode_serving medcode_serving
RUN pip --python /opt/medcode/bin/python install --no-deps .


FROM python:3.11-slim
ARG TORCH=cpu
LABEL org.opencontainers.image.title="medcode-serving" \
      org.opencontainers.image.description="Clinical text in, medical codes out. Holds no model: mount bundles at /models." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      medcode.torch="${TORCH}"
COPY --from=build /opt/medcode /opt/medcode

# The root file system may be read-only: whatever is written goes to /tmp, which should be memory, for an upload may
# lie there for a moment. Where the keys are is for whoever runs it to say: a setting here would go before those of a
# mounted file. Nothing is fetched and nothing reported. pip compiled all modules when it installed them.
# USER: torch asks for the user's name, and user 10001 has no entry in /etc/passwd.
ENV PATH=/opt/medcode/bin:$PATH \
    HOME=/tmp \
    USER=medcode \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MEDCODE_SERVE_MODEL__HOME=/models

# Made here, so that a volume without an owner gets the right one. Mount only bundles/ and base_models/ of MEDCODE_HOME:
# its warehouse/ holds the notes.
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('MEDCODE_SERVE_API__PORT', '8000') + '/health/live', timeout=4)"]
ENTRYPOINT ["medcode"]
CMD ["serve", "--host", "0.0.0.0"]
