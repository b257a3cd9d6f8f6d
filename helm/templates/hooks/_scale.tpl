{{/* A job that drains or undrains shard pods: (dict "root" . "name" "drain" "on" HOOK "from" ORDINAL "below" ORDINAL). */}}
{{- define "omma.scaleJob" -}}
{{- $name := printf "%s-%s" (include "omma.fullname" .root) .name -}}
{{- $id := dict "root" .root "component" "cli" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
    {{- include "omma.labels" $id | nindent 4 }}
  annotations:
    {{- include "omma.hook" (dict "on" .on "weight" -5) | nindent 4 }}
data:
  scale.sh: |
    {{- .root.Files.Get "files/hooks/scale.sh" | nindent 4 }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  labels:
    {{- include "omma.labels" $id | nindent 4 }}
  annotations:
    {{- include "omma.hook" (dict "on" .on "weight" 0) | nindent 4 }}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ .root.Values.shard.drainSeconds }}
  template:
    metadata:
      labels:
        {{- include "omma.selector" $id | nindent 8 }}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        {{- include "omma.podSecurity" .root | nindent 8 }}
      {{- with include "omma.pullSecrets" .root }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "omma.image" (dict "root" .root "name" "cli") }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [sh, /scripts/scale.sh]
          env:
            {{- include "omma.cliEnv" .root | nindent 12 }}
            - {name: ACTION, value: {{ .name }}}
            - {name: PODS, value: {{ include "omma.shard" .root | quote }}}
            - {name: FROM, value: {{ .from | quote }}}
            - {name: BELOW, value: {{ .below | quote }}}
          resources:
            {{- include "omma.cliResources" .root | nindent 12 }}
          securityContext:
            {{- include "omma.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: scripts, mountPath: /scripts, readOnly: true}
            {{- include "omma.cliMounts" .root | nindent 12 }}
      volumes:
        - name: scripts
          configMap: {name: {{ $name }}}
        {{- include "omma.cliVolumes" .root | nindent 8 }}
{{- end -}}
