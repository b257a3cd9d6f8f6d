{{/* (dict "on" "pre-install" "weight" 0): gone once it has succeeded; if it failed, helm shows its log, and it is there
     to look at. `helm test --logs` could not show it: it looks when the pod is gone, and for ConfigMaps too. */}}
{{- define "omma.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: {{ ternary "hook-failed,hook-succeeded" "hook-failed" (eq .on "test") }}
{{- end -}}
